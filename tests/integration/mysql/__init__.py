"""Against a real MySQL and a real MariaDB."""
