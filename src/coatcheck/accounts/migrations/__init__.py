"""The steps by which the accounts' database came to its present schema, for Alembic. Run by `coatcheck.accounts.migrate`."""
