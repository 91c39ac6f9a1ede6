/* Preloaded into the daemon: ends it with SIGKILL at the Nth step that the outside can see.
 *
 * A step is a call that makes something durable or sends something: fsync, rename, unlink, mkdir, send.
 * KILL_AT=N kills before the Nth of them, so that all before it have happened and it has not.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long steps;

static void step(void)
{
    const char *at = getenv("KILL_AT");
    if (at && atomic_fetch_add(&steps, 1) + 1 == atol(at))
        kill(getpid(), SIGKILL);
}

#define REAL(name, type) ((type)dlsym(RTLD_NEXT, name))

int fsync(int fd)
{
    step();
    return REAL("fsync", int (*)(int))(fd);
}

int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    step();
    return REAL("renameat", int (*)(int, const char *, int, const char *))(from_fd, from, to_fd, to);
}

int unlinkat(int fd, const char *path, int flags)
{
    step();
    return REAL("unlinkat", int (*)(int, const char *, int))(fd, path, flags);
}

int mkdir(const char *path, mode_t mode)
{
    step();
    return REAL("mkdir", int (*)(const char *, mode_t))(path, mode);
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
    /* A single byte is the event loop waking itself. */
    if (size > 1)
        step();
    return REAL("send", ssize_t (*)(int, const void *, size_t, int))(fd, data, size, flags);
}
