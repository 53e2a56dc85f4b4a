"""A local DogStatsD receiver, and views of what arrives; `watch` and `demo` show them."""
