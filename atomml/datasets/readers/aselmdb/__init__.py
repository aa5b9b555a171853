"""ASE-LMDB databases (`.aselmdb`), folders and archives of them."""
