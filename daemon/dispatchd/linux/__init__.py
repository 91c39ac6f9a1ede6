"""The machine below both programs: proxies, certificates, prerequisites, deep folders, orphans, kernel sandboxes."""
