/* Counts the calls of a process, and of those that it forks, that change or open files below one folder, and lets one of them fail.

   Loaded before libc (LD_PRELOAD); `faults_arm` begins. Native libraries are covered as Python is. What stdio writes from its buffers
   is not seen, only that it opens a file; nothing of nnseg writes so. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOTHING, KILL, FULL, BROKEN, SHORT };
enum { FILES = 4096, NAME = 4096, STACK = 65536 };

static struct {
    long calls;  /* so far */
    int reached; /* the call was made */
} *shared;       /* by all processes */
static char root[NAME];
static size_t root_length;
static long at;
static int kind;
static char log_file[NAME]; /* "" for none */
static char below[FILES]; /* by number of an open file: 1 if below the folder and to be written, 2 if opened to be read */

#define REAL(result, name, ...)                                     \
    static result (*real)(__VA_ARGS__);                             \
    if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

void faults_arm(const char *folder, long call, int how, const char *log)
{
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    root_length = strlen(folder);
    strncpy(root, folder, NAME - 1);
    at = call;
    kind = how;
    strncpy(log_file, log, NAME - 1);
}

static int inside(int folder, const char *path)
{
    char full[2 * NAME] = "";
    if (!root_length) return 0;
    if (path[0] != '/') {
        char link[64];
        if (folder == AT_FDCWD) strcpy(link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t n = readlink(link, full, NAME);
        if (n < 0) return 0;
        full[n] = '/';
    }
    strncat(full, path, NAME - 1);
    return !strncmp(full, root, root_length) && full[root_length] == '/';
}

/* Where in Python this thread calls from: lines "  File NAME, line N in FUNCTION", the innermost first; none where Python does not tell.
   Python's own function writes them to a file, also while another thread is in its turn. */
static size_t place(char *text, size_t size)
{
    void (*dump)(int, void *) = (void (*)(int, void *))dlsym(RTLD_DEFAULT, "_Py_DumpTraceback");
    void *(*state)(void) = (void *(*)(void))dlsym(RTLD_DEFAULT, "PyGILState_GetThisThreadState");
    if (!dump || !state || !state()) return 0;
    int file = memfd_create("stack", MFD_CLOEXEC);
    if (file >= 0 && file < FILES) below[file] = 0; /* its number may be one that a library has closed unseen */
    dump(file, state());
    ssize_t n = pread64(file, text, size, 0);
    syscall(SYS_close, file);
    return n > 0 ? n : 0;
}

static void note(const char *what, int file, const char *path)
{
    static __thread char text[2 * NAME + STACK];
    char name[NAME] = "";
    if (!*log_file) return;
    if (!path) {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", file);
        ssize_t n = readlink(link, name, NAME - 1);
        if (n > 0) name[n] = 0;
        path = name;
    }
    int n = snprintf(text, 2 * NAME, "%s %s\n", what, path);
    n += place(text + n, STACK);
    int log = syscall(SYS_openat, AT_FDCWD, log_file, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (syscall(SYS_write, log, text, n) < n) abort();
    syscall(SYS_close, log);
}

/* 0, or the error with which this call fails; of a write that is to be short -1. */
static int fault(const char *what, int file, const char *path)
{
    int reading = !strcmp(what, "read");
    if (reading && kind != BROKEN && kind != NOTHING) return 0;
    long number = __atomic_add_fetch(&shared->calls, 1, __ATOMIC_SEQ_CST);
    note(what, file, path);
    int takes_space = strcmp(what, "remove") && strcmp(what, "chmod") && !reading;
    if (kind == NOTHING || number < at) return 0;
    if (number > at) return (kind == FULL || kind == SHORT) && takes_space ? ENOSPC : 0;
    shared->reached = 1;
    if (kind == KILL) kill(getpid(), SIGKILL);
    if (kind == BROKEN) return EIO;
    if (kind == SHORT && !strcmp(what, "write")) return -1;
    return takes_space ? ENOSPC : 0;
}

long faults_calls(void) { return shared ? shared->calls : 0; }
int faults_reached(void) { return shared ? shared->reached : 0; }

#define FAIL(what, folder, path, result)                              \
    if (inside(folder, path)) {                                       \
        int error = fault(what, -1, path);                            \
        if (error > 0) { errno = error; return result; }              \
    }

static int opened(int file, int flags, int is_inside)
{
    if (file >= 0 && file < FILES) below[file] = is_inside ? ((flags & O_ACCMODE) == O_RDONLY ? 2 : 1) : 0;
    return file;
}

static const char *to_open(int flags) { return (flags & O_ACCMODE) == O_RDONLY ? "read" : "open"; }

#define OPEN(name)                                                                        \
    int name(const char *path, int flags, ...)                                            \
    {                                                                                     \
        REAL(int, #name, const char *, int, ...);                                         \
        va_list more;                                                                     \
        va_start(more, flags);                                                            \
        mode_t mode = va_arg(more, mode_t);                                               \
        va_end(more);                                                                     \
        if (!(flags & O_DIRECTORY)) { FAIL(to_open(flags), AT_FDCWD, path, -1) }          \
        return opened(real(path, flags, mode), flags, inside(AT_FDCWD, path));            \
    }
#define OPENAT(name)                                                                      \
    int name(int folder, const char *path, int flags, ...)                                \
    {                                                                                     \
        REAL(int, #name, int, const char *, int, ...);                                    \
        va_list more;                                                                     \
        va_start(more, flags);                                                            \
        mode_t mode = va_arg(more, mode_t);                                               \
        va_end(more);                                                                     \
        if (!(flags & O_DIRECTORY)) { FAIL(to_open(flags), folder, path, -1) }            \
        return opened(real(folder, path, flags, mode), flags, inside(folder, path));      \
    }
#define FOPEN(name)                                                                       \
    FILE *name(const char *path, const char *mode)                                        \
    {                                                                                     \
        REAL(FILE *, #name, const char *, const char *);                                  \
        int flags = mode[0] == 'r' && !strchr(mode, '+') ? O_RDONLY : O_WRONLY;           \
        FAIL(to_open(flags), AT_FDCWD, path, NULL)                                        \
        FILE *file = real(path, mode);                                                    \
        if (file) opened(fileno(file), flags, inside(AT_FDCWD, path));                    \
        return file;                                                                      \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
FOPEN(fopen)
FOPEN(fopen64)

static int written(int file) { return root_length && file >= 0 && file < FILES && below[file] == 1; }

int close(int file)
{
    REAL(int, "close", int);
    if (file >= 0 && file < FILES) below[file] = 0;
    return real(file);
}

#define WRITE(name, size, parameters, arguments, short_arguments, ...) \
    ssize_t name parameters                                        \
    {                                                              \
        REAL(ssize_t, #name, __VA_ARGS__);                         \
        int error = written(file) ? fault("write", file, NULL) : 0;\
        if (error < 0 && (size) > 1) return real short_arguments;  \
        if (error) { errno = ENOSPC; if (error > 0) errno = error; return -1; } \
        return real arguments;                                     \
    }
WRITE(write, n, (int file, const void *data, size_t n), (file, data, n), (file, data, n / 2), int, const void *, size_t)
WRITE(pwrite, n, (int file, const void *data, size_t n, off_t o), (file, data, n, o), (file, data, n / 2, o), int, const void *, size_t, off_t)
WRITE(pwrite64, n, (int file, const void *data, size_t n, off64_t o), (file, data, n, o), (file, data, n / 2, o), int, const void *, size_t, off64_t)
WRITE(writev, n, (int file, const struct iovec *v, int n), (file, v, n), (file, v, n / 2), int, const struct iovec *, int)
WRITE(sendfile, n, (int file, int from, off_t *o, size_t n), (file, from, o, n), (file, from, o, n / 2), int, int, off_t *, size_t)
WRITE(sendfile64, n, (int file, int from, off64_t *o, size_t n), (file, from, o, n), (file, from, o, n / 2), int, int, off64_t *, size_t)

ssize_t copy_file_range(int from, off64_t *i, int file, off64_t *o, size_t n, unsigned flags)
{
    (void)from; (void)i; (void)file; (void)o; (void)n; (void)flags;
    errno = ENOSYS; /* callers use sendfile or write */
    return -1;
}

int fsync(int file)
{
    REAL(int, "fsync", int);
    int error = root_length && file >= 0 && file < FILES && below[file] ? fault("fsync", file, NULL) : 0;
    if (error) { errno = error > 0 ? error : ENOSPC; return -1; }
    return real(file);
}

int rename(const char *from, const char *to)
{
    REAL(int, "rename", const char *, const char *);
    FAIL("rename", AT_FDCWD, to, -1)
    return real(from, to);
}

int renameat(int folder, const char *from, int other, const char *to)
{
    REAL(int, "renameat", int, const char *, int, const char *);
    FAIL("rename", other, to, -1)
    return real(folder, from, other, to);
}

int unlink(const char *path)
{
    REAL(int, "unlink", const char *);
    FAIL("remove", AT_FDCWD, path, -1)
    return real(path);
}

int unlinkat(int folder, const char *path, int flags)
{
    REAL(int, "unlinkat", int, const char *, int);
    FAIL("remove", folder, path, -1)
    return real(folder, path, flags);
}

int rmdir(const char *path)
{
    REAL(int, "rmdir", const char *);
    FAIL("remove", AT_FDCWD, path, -1)
    return real(path);
}

int mkdir(const char *path, mode_t mode)
{
    REAL(int, "mkdir", const char *, mode_t);
    FAIL("mkdir", AT_FDCWD, path, -1)
    return real(path, mode);
}

int chmod(const char *path, mode_t mode)
{
    REAL(int, "chmod", const char *, mode_t);
    FAIL("chmod", AT_FDCWD, path, -1)
    return real(path, mode);
}
