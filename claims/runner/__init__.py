"""What claims/run.py stands on: commands and their folders, the schedule, statistics, the table and the page."""
