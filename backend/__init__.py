"""Everything that talks to the outside: Label Studio, the command line, jobs. Start reading at app.py."""
