"""The ServerApp: joins sites, runs rounds, keeps what happened."""
