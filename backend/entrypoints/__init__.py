"""What the operating system starts; with `cli` alone it reads the environment."""
