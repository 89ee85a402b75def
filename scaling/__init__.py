"""Laws of how reinforcement scales: read off runs, fitted with intervals, and used to spend a budget."""
