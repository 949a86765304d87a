"""What fits the session into one framework each. A framework is imported only by the module that is named for it."""
