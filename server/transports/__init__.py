"""How bytes come and go: gRPC, twice, behind one boundary that knows no model."""
