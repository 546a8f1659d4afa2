"""What is to be done for each drive."""
