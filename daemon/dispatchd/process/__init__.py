"""The machine below both programs: proxies, certificates, prerequisites, folders of any depth, orphans, the kernel's walls."""
