/* Stands between a node and the system. See shim.rs for what each of the variables means. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Faults that last as long as a file exists. */

static int is_there(const char *variable) {
    const char *file = getenv(variable);
    return file != NULL && access(file, F_OK) == 0;
}

/* Sockets, pipes and the like always have room. */
static int is_full(int file) {
    struct stat found;
    return is_there("NO_ROOM_WITH") && fstat(file, &found) == 0 && S_ISREG(found.st_mode);
}

/* The n-th call fails: the plan says "<generation> <n> <kind>", and each generation counts from 1. */

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static long generation, counted;

enum strike { NO, FAILS, NO_SPACE, TORN, SHORT };

static enum strike kind_of(const char *name) {
    if (strcmp(name, "no-space") == 0) return NO_SPACE;
    if (strcmp(name, "torn") == 0) return TORN;
    if (strcmp(name, "short") == 0) return SHORT;
    return FAILS;
}

static long read_plan(long *nth, char *kind) {
    char text[64] = {0};
    long found = 0;
    int file = syscall(SYS_openat, AT_FDCWD, getenv("PLAN"), O_RDONLY, 0);
    if (file < 0) return 0;
    if (syscall(SYS_read, file, text, sizeof text - 1) <= 0 || sscanf(text, "%ld %ld %15s", &found, nth, kind) != 3) found = 0;
    syscall(SYS_close, file);
    return found;
}

/* Counts a call on a file of the node, and says what is to become of it. */
static enum strike count(const char *call, const char *path) {
    const char *under = getenv("FAULTS_UNDER");
    if (under == NULL || strncmp(path, under, strlen(under)) != 0) return NO;
    enum strike strike = NO;
    long nth = 0;
    char kind[16], line[512];
    pthread_mutex_lock(&turn);
    long found = read_plan(&nth, kind);
    if (found != 0) {
        if (found != generation) {
            generation = found;
            counted = 0;
        }
        counted++;
        if (counted == nth) strike = kind_of(kind);
        int length = snprintf(line, sizeof line, "%ld %ld %s %s %s\n", generation, counted,
                              strike == NO ? "passed" : "struck", call, path + strlen(under));
        int log = syscall(SYS_openat, AT_FDCWD, getenv("CALLS"), O_WRONLY | O_CREAT | O_APPEND, 0644);
        if (log >= 0) {
            syscall(SYS_write, log, line, length);
            syscall(SYS_close, log);
        }
    }
    pthread_mutex_unlock(&turn);
    return strike;
}

static enum strike count_open(const char *call, int file) {
    char link[32], path[512];
    if (getenv("FAULTS_UNDER") == NULL) return NO;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (length <= 0) return NO;
    path[length] = 0;
    return count(call, path);
}

static long fail(enum strike strike) {
    errno = strike == NO_SPACE ? ENOSPC : EIO;
    return -1;
}

/* Half of it gets there, whether it is said or not. */
static ssize_t write_with(int file, const void *bytes, size_t length, off_t at, int is_placed) {
    if (is_full(file)) return fail(NO_SPACE);
    enum strike strike = count_open("write", file);
    if (strike == FAILS || strike == NO_SPACE) return fail(strike);
    if (strike == TORN || strike == SHORT) length = (length + 1) / 2;
    ssize_t written =
        is_placed ? syscall(SYS_pwrite64, file, bytes, length, at) : syscall(SYS_write, file, bytes, length);
    return strike == TORN ? fail(FAILS) : written;
}

ssize_t write(int file, const void *bytes, size_t length) { return write_with(file, bytes, length, 0, 0); }
ssize_t pwrite(int file, const void *bytes, size_t length, off_t at) { return write_with(file, bytes, length, at, 1); }
ssize_t pwrite64(int file, const void *bytes, size_t length, off_t at) { return write_with(file, bytes, length, at, 1); }

static int sync_with(long call, int file) {
    if (is_there("SYNC_FAILS_WITH")) return fail(FAILS);
    if (is_there("SYNC_IS_SLOW_WITH")) {
        struct timespec delay = {0, 50 * 1000 * 1000};
        nanosleep(&delay, NULL);
    }
    enum strike strike = count_open("sync", file);
    return strike == NO ? syscall(call, file) : fail(FAILS);
}

int fsync(int file) { return sync_with(SYS_fsync, file); }
int fdatasync(int file) { return sync_with(SYS_fdatasync, file); }

int fallocate(int file, int mode, off_t at, off_t length) {
    if (is_full(file)) return fail(NO_SPACE);
    enum strike strike = count_open("allocate", file);
    return strike == NO ? syscall(SYS_fallocate, file, mode, at, length) : fail(strike);
}

static int truncate_with(int file, off_t length) {
    enum strike strike = count_open("truncate", file);
    return strike == NO ? syscall(SYS_ftruncate, file, length) : fail(FAILS);
}

int ftruncate(int file, off_t length) { return truncate_with(file, length); }
int ftruncate64(int file, off_t length) { return truncate_with(file, length); }

int rename(const char *from, const char *to) {
    enum strike strike = count("rename", to);
    return strike == NO ? syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0) : fail(FAILS);
}

int unlink(const char *path) {
    enum strike strike = count("unlink", path);
    return strike == NO ? syscall(SYS_unlinkat, AT_FDCWD, path, 0) : fail(FAILS);
}

int mkdir(const char *path, mode_t mode) {
    enum strike strike = count("mkdir", path);
    return strike == NO ? syscall(SYS_mkdirat, AT_FDCWD, path, mode) : fail(strike);
}

static int open_with(const char *path, int flags, mode_t mode) {
    const char *under = getenv("FAULTS_UNDER");
    int writes = (flags & O_ACCMODE) != O_RDONLY && under != NULL && strncmp(path, under, strlen(under)) == 0;
    if (writes && is_there("READ_ONLY_WITH")) {
        errno = EROFS;
        return -1;
    }
    enum strike strike = flags & O_CREAT ? count("create", path) : NO;
    return strike == NO ? syscall(SYS_openat, AT_FDCWD, path, flags, mode) : fail(strike);
}

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return open_with(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return open_with(path, flags, mode);
}
