"""The ring on liburing. `ring.py` alone imports the cffi extension, which is built from the C files here."""
