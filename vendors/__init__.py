"""The built-in vendors, one folder each; none knows another."""
