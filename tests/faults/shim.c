/* Preloaded into a gateway under test: writes down what it does to the files of one directory and what it sends to its
 * clients, in one order, fails the n-th of those file operations when told to, and steps the wall clock.
 *
 * Owns the journal (format: faults/journal.py) and the control block (faults/preload.py). It must not change what an
 * operation does, unless it is told to fail it: then the operation is not done at all.
 *
 * A write is noted before it is done and a sync after it has succeeded, so that a process killed in between leaves a
 * journal that promises less than the disk holds, never more. One lock covers an operation and its note.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { BOOT = 1, CREATE, WRITE, TRUNCATE, SYNC, DIRSYNC, UNLINK, RENAME, CONNECTION, SEND, FAULT };
enum { ON_WRITE = 1, ON_SYNC = 2, ON_TRUNCATE = 4, ON_OPEN = 8, ON_READ = 16, ON_NAME = 32 };
enum { OFF = 0, ONCE = 1, FOR_GOOD = 2, DIE = 3 };

struct control {
    int32_t armed, error;
    uint32_t mask;
    int32_t fired_on;
    int64_t count, nth, fired;
    uint64_t fired_ns;
    int64_t step_ns; /* what the wall clock is wrong by */
};

struct __attribute__((packed)) head {
    uint8_t kind;
    uint64_t file, offset, ns;
    uint32_t length;
};

#define DESCRIPTORS 65536
enum { OTHER = 0, FILE_OF_OURS = 1, DIRECTORY = 2 };
static uint8_t kinds[DESCRIPTORS];
static uint64_t inodes[DESCRIPTORS];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char directory[4096];
static size_t directory_length;
static int journal = -1;
static struct control *control;


static uint64_t now_ns(void) {
    struct timespec t;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void note(uint8_t kind, uint64_t file, uint64_t offset, const struct iovec *parts, int count, size_t limit) {
    if (journal < 0) return;
    struct head head = {kind, file, offset, now_ns(), 0};
    struct iovec all[64];
    int used = 1;
    for (int i = 0; i < count && used < 64 && limit; i++) {
        size_t length = parts[i].iov_len < limit ? parts[i].iov_len : limit;
        all[used].iov_base = parts[i].iov_base;
        all[used++].iov_len = length;
        head.length += (uint32_t)length;
        limit -= length;
    }
    all[0].iov_base = &head;
    all[0].iov_len = sizeof head;
    if (limit && count > 63) _exit(99); /* more parts than fit: the note would not say all */
    ssize_t done = syscall(SYS_writev, journal, all, used);
    if (done != (ssize_t)(sizeof head + head.length)) _exit(98);
}

static void note_bytes(uint8_t kind, uint64_t file, uint64_t offset, const void *data, size_t length) {
    struct iovec part = {(void *)data, length};
    note(kind, file, offset, &part, length ? 1 : 0, length);
}

__attribute__((constructor)) static void begin(void) {
    const char *where = getenv("SHIM_DIRECTORY"), *path = getenv("SHIM_JOURNAL"), *block = getenv("SHIM_CONTROL");
    if (!where || strlen(where) >= sizeof directory) return;
    strcpy(directory, where);
    directory_length = strlen(directory);
    if (block) {
        int fd = (int)syscall(SYS_openat, AT_FDCWD, block, O_RDWR | O_CLOEXEC, 0);
        if (fd < 0) _exit(97);
        control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        syscall(SYS_close, fd);
        if (control == MAP_FAILED) _exit(97);
    }
    if (path) {
        journal = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (journal < 0) _exit(97);
        int high = fcntl(journal, F_DUPFD_CLOEXEC, 900); /* out of the way of whoever counts descriptors */
        syscall(SYS_close, journal);
        journal = high;
        note_bytes(BOOT, 0, (uint64_t)getpid(), NULL, 0);
    }
}

/* Whether this operation is to fail; errno is set then. */
static int fails(uint32_t on, uint64_t file) {
    if (!control || !(control->mask & on)) return 0;
    int64_t count = ++control->count;
    if (control->armed == OFF || count < control->nth || (control->armed == ONCE && control->fired)) return 0;
    if (!control->fired++) {
        control->fired_ns = now_ns();
        control->fired_on = (int32_t)on;
    }
    note_bytes(FAULT, file, on, NULL, 0);
    if (control->armed == DIE) kill(getpid(), SIGKILL);
    errno = control->error;
    return 1;
}

static const char *name_of(const char *path) {
    if (!directory_length || strncmp(path, directory, directory_length) || path[directory_length] != '/') return NULL;
    const char *name = path + directory_length + 1;
    size_t length = strlen(name);
    if (!length || strchr(name, '/')) return NULL;
    if (length > 4 && !strcmp(name + length - 4, "-shm")) return NULL; /* rebuilt at each open */
    if (length > 5 && !strcmp(name + length - 5, ".lock")) return NULL;
    return name;
}

static int kind_of(int fd) { return fd >= 0 && fd < DESCRIPTORS ? kinds[fd] : OTHER; }

static int opened(int at, const char *path, int flags, mode_t mode) {
    int is_directory = directory_length && !strcmp(path, directory);
    const char *name = is_directory ? NULL : name_of(path);
    if (!name && !is_directory) return (int)syscall(SYS_openat, at, path, flags, mode);
    pthread_mutex_lock(&lock);
    int fd = -1;
    if (!name || !fails(ON_OPEN, 0)) {
        struct stat before, after;
        int is_new = name && (flags & O_CREAT) && syscall(SYS_newfstatat, AT_FDCWD, path, &before, 0) < 0;
        fd = (int)syscall(SYS_openat, at, path, flags, mode);
        if (fd >= 0 && fd < DESCRIPTORS) {
            kinds[fd] = is_directory ? DIRECTORY : FILE_OF_OURS;
            syscall(SYS_fstat, fd, &after);
            inodes[fd] = after.st_ino;
            if (is_new) note_bytes(CREATE, after.st_ino, 0, name, strlen(name));
            else if (name && (flags & O_TRUNC)) note_bytes(TRUNCATE, after.st_ino, 0, NULL, 0);
        }
    }
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

#define MODE_OF(flags, mode) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }
int open(const char *path, int flags, ...) { MODE_OF(flags, mode) return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE_OF(flags, mode) return opened(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE_OF(flags, mode) return opened(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE_OF(flags, mode) return opened(at, path, flags, mode); }

int close(int fd) {
    pthread_mutex_lock(&lock);
    if (fd >= 0 && fd < DESCRIPTORS) kinds[fd] = OTHER;
    int answer = (int)syscall(SYS_close, fd), error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return answer;
}

static ssize_t written(int fd, const void *data, size_t length, off_t offset) {
    ssize_t answer = -1;
    pthread_mutex_lock(&lock);
    if (!fails(ON_WRITE, inodes[fd])) {
        note_bytes(WRITE, inodes[fd], (uint64_t)offset, data, length);
        answer = syscall(SYS_pwrite64, fd, data, length, offset);
        if (answer >= 0 && (size_t)answer != length) _exit(96); /* the journal says more than was done */
    }
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return answer;
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    if (kind_of(fd) == FILE_OF_OURS) return written(fd, data, length, offset);
    return syscall(SYS_pwrite64, fd, data, length, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) { return pwrite(fd, data, length, offset); }

static ssize_t readen(int fd, void *data, size_t length, off_t offset) {
    if (kind_of(fd) == FILE_OF_OURS && control && control->mask & ON_READ) {
        pthread_mutex_lock(&lock);
        int failed = fails(ON_READ, inodes[fd]), error = errno;
        pthread_mutex_unlock(&lock);
        if (failed) { errno = error; return -1; }
    }
    return syscall(SYS_pread64, fd, data, length, offset);
}
ssize_t pread(int fd, void *data, size_t length, off_t offset) { return readen(fd, data, length, offset); }
ssize_t pread64(int fd, void *data, size_t length, off64_t offset) { return readen(fd, data, length, offset); }

static int synced(int fd, long number) {
    int kind = kind_of(fd);
    if (kind == OTHER) return (int)syscall(number, fd);
    int answer = -1;
    pthread_mutex_lock(&lock);
    if (!fails(ON_SYNC, inodes[fd])) {
        answer = (int)syscall(number, fd);
        if (answer == 0) note_bytes(kind == DIRECTORY ? DIRSYNC : SYNC, inodes[fd], 0, NULL, 0);
    }
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return answer;
}
int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

int ftruncate(int fd, off_t size) {
    if (kind_of(fd) != FILE_OF_OURS) return (int)syscall(SYS_ftruncate, fd, size);
    int answer = -1;
    pthread_mutex_lock(&lock);
    if (!fails(ON_TRUNCATE, inodes[fd])) {
        note_bytes(TRUNCATE, inodes[fd], (uint64_t)size, NULL, 0);
        answer = (int)syscall(SYS_ftruncate, fd, size);
    }
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return answer;
}
int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }

int unlink(const char *path) {
    const char *name = name_of(path);
    if (!name) return (int)syscall(SYS_unlink, path);
    int answer = -1;
    pthread_mutex_lock(&lock);
    if (!fails(ON_NAME, 0)) {
        answer = (int)syscall(SYS_unlink, path);
        if (answer == 0) note_bytes(UNLINK, 0, 0, name, strlen(name));
    }
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return answer;
}

int rename(const char *from, const char *to) {
    const char *old = name_of(from), *new = name_of(to);
    if (!old || !new) return (int)syscall(SYS_rename, from, to);
    int answer = -1;
    pthread_mutex_lock(&lock);
    if (!fails(ON_NAME, 0)) {
        struct iovec parts[] = {{(void *)old, strlen(old) + 1}, {(void *)new, strlen(new)}};
        answer = (int)syscall(SYS_rename, from, to);
        if (answer == 0) note(RENAME, 0, 0, parts, 2, parts[0].iov_len + parts[1].iov_len);
    }
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return answer;
}

/* -- the wall clock; the monotonic one is left alone, as a step leaves it alone */

int clock_gettime(clockid_t which, struct timespec *t) {
    int answer = (int)syscall(SYS_clock_gettime, which, t);
    if (answer == 0 && control && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) {
        t->tv_sec += control->step_ns / 1000000000;
        t->tv_nsec += control->step_ns % 1000000000;
        if (t->tv_nsec < 0) { t->tv_nsec += 1000000000; t->tv_sec--; }
        if (t->tv_nsec >= 1000000000) { t->tv_nsec -= 1000000000; t->tv_sec++; }
    }
    return answer;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}

/* -- what clients are told: noted with the bytes that the kernel took */

static int to_client(int fd) {
    struct sockaddr_storage name;
    socklen_t length = sizeof name;
    return journal >= 0 && getsockname(fd, (struct sockaddr *)&name, &length) == 0 && name.ss_family == AF_INET;
}

static ssize_t sent(int fd, const struct iovec *parts, int count, const struct msghdr *message, int flags) {
    int listening = to_client(fd);
    if (listening) pthread_mutex_lock(&lock);
    ssize_t answer = message ? syscall(SYS_sendmsg, fd, message, flags) : syscall(SYS_writev, fd, parts, count);
    int error = errno;
    if (listening) {
        if (answer > 0) note(SEND, (uint64_t)fd, 0, parts, count, (size_t)answer);
        pthread_mutex_unlock(&lock);
    }
    errno = error;
    return answer;
}
ssize_t writev(int fd, const struct iovec *parts, int count) { return sent(fd, parts, count, NULL, 0); }
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    return sent(fd, message->msg_iov, (int)message->msg_iovlen, message, flags);
}
ssize_t send(int fd, const void *data, size_t length, int flags) {
    struct iovec part = {(void *)data, length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    return sent(fd, &part, 1, &message, flags);
}
ssize_t write(int fd, const void *data, size_t length) {
    if (kind_of(fd) == FILE_OF_OURS) {
        off_t offset = fcntl(fd, F_GETFL) & O_APPEND ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
        ssize_t answer = written(fd, data, length, offset);
        if (answer > 0) lseek(fd, offset + answer, SEEK_SET);
        return answer;
    }
    struct stat what;
    if (journal < 0 || syscall(SYS_fstat, fd, &what) < 0 || !S_ISSOCK(what.st_mode))
        return syscall(SYS_write, fd, data, length);
    struct iovec part = {(void *)data, length};
    return sent(fd, &part, 1, NULL, 0);
}

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags) {
    pthread_mutex_lock(&lock);
    int answer = (int)syscall(SYS_accept4, fd, address, length, flags), error = errno;
    if (answer >= 0) note_bytes(CONNECTION, (uint64_t)answer, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return answer;
}
