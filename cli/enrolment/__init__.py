"""Who belongs to the federation: keys, certificates, kits, and the list of sites."""
