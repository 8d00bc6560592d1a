"""What runs suites for people: command line, supervisor, report, expectations, vendoring."""
