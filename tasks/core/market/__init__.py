"""What the market says: bars, features, events and the snapshot made of them."""
