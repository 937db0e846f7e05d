"""A page on this machine on which people try hardened models: `mogu playground`.

The files beside this one compute, and can be used without a browser; `server` alone knows of the page. Importing this package
imports no web server.
"""
