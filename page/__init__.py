"""What report.py puts together."""
