"""Records of a run outside its folder (MLflow), and the pictures and tables that go into them."""
