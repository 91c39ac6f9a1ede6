/* Preloaded into the daemon: the power goes before the Nth sync or send, and what was not synced is lost.
 *
 * A disk keeps of a file what it had, and of a folder which entries it had, when that was last synced. Both are
 * written to CUT_FOLDER, under the inode's number; tests/support/power_cut.py makes of them what is found after
 * the cut. CUT_AT=N ends the process before the Nth sync below CUT_BELOW, or send.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static long steps;

static void step(void)
{
    const char *at = getenv("CUT_AT");
    if (at && ++steps == atol(at))
        kill(getpid(), SIGKILL);
}

static FILE *note(ino_t inode, const char *kind)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%lu.%s", getenv("CUT_FOLDER"), (unsigned long)inode, kind);
    FILE *out = fopen(path, "w");
    if (!out)
        abort();
    return out;
}

static void note_folder(int fd, ino_t inode)
{
    FILE *out = note(inode, "entries");
    DIR *folder = fdopendir(openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    for (struct dirent *each; folder && (each = readdir(folder));)
        if (strcmp(each->d_name, ".") && strcmp(each->d_name, ".."))
            fprintf(out, "%lu %d %s\n", (unsigned long)each->d_ino, each->d_type == DT_DIR, each->d_name);
    closedir(folder);
    fclose(out);
}

static void note_file(const char *path, ino_t inode)
{
    char data[65536];
    FILE *in = fopen(path, "r"), *out = note(inode, "data");
    for (size_t size; in && (size = fread(data, 1, sizeof data, in)) > 0;)
        fwrite(data, 1, size, out);
    fclose(in);
    fclose(out);
}

int fsync(int fd)
{
    char link[64], path[4096];
    struct stat found;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    if (strncmp(path, getenv("CUT_BELOW"), strlen(getenv("CUT_BELOW"))) || fstat(fd, &found))
        return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
    pthread_mutex_lock(&guard);
    step();
    if (S_ISDIR(found.st_mode))
        note_folder(fd, found.st_ino);
    else
        note_file(link, found.st_ino);
    /* Kept open, so that no later file gets its inode. */
    fcntl(fd, F_DUPFD_CLOEXEC, 0);
    pthread_mutex_unlock(&guard);
    return 0;
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
    /* A single byte is the event loop waking itself. */
    if (size > 1) {
        pthread_mutex_lock(&guard);
        step();
        pthread_mutex_unlock(&guard);
    }
    return ((ssize_t (*)(int, const void *, size_t, int))dlsym(RTLD_NEXT, "send"))(fd, data, size, flags);
}
