"""What a stranger adds to sfda."""
