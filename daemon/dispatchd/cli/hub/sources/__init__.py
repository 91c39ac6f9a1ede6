"""Commands about what makes jobs by itself: schedules, and webhooks beside GitHub's."""
