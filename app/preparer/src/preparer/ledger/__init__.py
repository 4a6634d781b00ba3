"""The ledger: what was asked, and what became of every file."""
