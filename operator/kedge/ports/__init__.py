"""What the inside needs of the outside: Protocols and the values that cross them. Adapters implement them."""
