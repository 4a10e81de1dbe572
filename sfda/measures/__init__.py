"""What models' predictions are measured by, whatever the problem."""
