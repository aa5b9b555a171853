"""Labels of structures from reference calculators: by name, in other processes or on other machines, kept for good."""
