"""The papers' analyses of trained networks: one module a kind, each behind `nas-osr analyse KIND RUN`."""
