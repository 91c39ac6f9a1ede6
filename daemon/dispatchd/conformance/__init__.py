"""A judge of dispatch endpoints from outside: a trial plays a machine and records the answers, rules judge the record."""
