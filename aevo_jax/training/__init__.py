"""One jitted step, a loop readable in one sitting, and the recipe that binds them."""
