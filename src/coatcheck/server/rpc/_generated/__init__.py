"""What `make proto` writes."""
