"""Every row of the layouts that holds pages, read by reshape and transposition; no address is ever computed here."""
