"""What trains in order to compare or to ship."""
