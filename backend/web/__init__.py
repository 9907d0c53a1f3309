"""Everything Flask: routes, security, pages."""
