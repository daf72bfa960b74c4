"""The offline program that turns data into weights folders; the service never imports it."""
