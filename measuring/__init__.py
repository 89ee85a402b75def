"""What is measured of a model: accuracy on questions and needles, bits per byte, and what training scripts measure."""
