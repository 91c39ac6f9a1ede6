/* Preloaded into the hub: ends it with SIGKILL at the Nth step that the outside can see.
 *
 * A step makes something durable, is the second write before that (so that the first has happened and the rest has
 * not), or sends something: pwrite64 and fdatasync are what SQLite does, send and sendto carry answers and what
 * PostgreSQL is told. Steps count once the file KILL_ARMED is there, so that the start of the hub doesn't.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long steps, writes;

static void step(void)
{
    const char *at = getenv("KILL_AT"), *armed = getenv("KILL_ARMED");
    if (at && armed && access(armed, F_OK) == 0 && atomic_fetch_add(&steps, 1) + 1 == atol(at))
        kill(getpid(), SIGKILL);
}

#define REAL(name, type) ((type)dlsym(RTLD_NEXT, name))

int fsync(int fd)
{
    step();
    return REAL("fsync", int (*)(int))(fd);
}

int fdatasync(int fd)
{
    step();
    atomic_store(&writes, 0);
    return REAL("fdatasync", int (*)(int))(fd);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    if (atomic_fetch_add(&writes, 1) == 1)
        step();
    return REAL("pwrite64", ssize_t (*)(int, const void *, size_t, off64_t))(fd, data, size, at);
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
    /* A single byte is the event loop waking itself. */
    if (size > 1)
        step();
    return REAL("send", ssize_t (*)(int, const void *, size_t, int))(fd, data, size, flags);
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length)
{
    step();
    return REAL("sendto", ssize_t (*)(int, const void *, size_t, int, const struct sockaddr *, socklen_t))(
        fd, data, size, flags, to, length);
}
