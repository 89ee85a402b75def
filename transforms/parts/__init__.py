"""What augment.py and the transforms share."""
