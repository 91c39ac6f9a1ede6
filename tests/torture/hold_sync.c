/* Preloaded: while the file HOLD is there, a sync of a folder waits; after that it fails if the file FAIL is there.
 *
 * Each sync of a folder adds a byte to the file COUNT before it waits.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int fsync(int fd)
{
    struct stat seen;
    if (fstat(fd, &seen) == 0 && S_ISDIR(seen.st_mode)) {
        int count = open(getenv("COUNT"), O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (count < 0 || write(count, ".", 1) != 1)
            abort();
        close(count);
        while (access(getenv("HOLD"), F_OK) == 0)
            usleep(1000);
        if (access(getenv("FAIL"), F_OK) == 0) {
            errno = EIO;
            return -1;
        }
    }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}
