"""Foreign containers without executing or trusting anything in them: pickles, archives, LMDB files."""
