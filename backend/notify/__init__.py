"""Messages to people about what has ended: `webhook.py` posts them."""
