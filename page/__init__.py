"""The parts of the report page that report.py writes."""
