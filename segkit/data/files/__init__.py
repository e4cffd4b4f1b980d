"""Reading images, masks, lists and tables, and telling what is wrong with them."""
