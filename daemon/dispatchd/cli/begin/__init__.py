"""`dispatchd join`, `quickstart`: the first hour. They write configuration beside what a person wrote, and start what is there."""
