/*
 * Preloaded into a supervisor by tests: makes one system call of its first thread fail, as a page says that the test shares
 * with it. Counts from the first epoll_create1() on, which is the supervisor's loop: what is before is the interpreter's.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static struct page {
	int32_t at;	/* fail the call that has this number; 0: none */
	int32_t number; /* the error */
	int32_t calls;	/* so far */
	int32_t fired;	/* 1: it has failed */
	char name[48];	/* of what failed */
} *page;
static int is_counting;

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("FAULTS_PAGE");
	int fd;

	if (path == NULL || strstr(program_invocation_short_name, "python") == NULL)
		return;
	fd = open(path, O_RDWR | O_CLOEXEC);
	page = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	unsetenv("FAULTS_PAGE");
}

static int fails(const char *name)
{
	if (page == NULL || !is_counting || syscall(SYS_gettid) != getpid())
		return 0;
	if (++page->calls != page->at)
		return 0;
	page->fired = 1;
	strncpy(page->name, name, sizeof page->name - 1);
	/* A file that is read never would block. */
	errno = page->number == EAGAIN && strcmp(name, "read") == 0 ? EIO : page->number;
	return 1;
}

#define NEXT(function) ((__typeof__(&(function)))dlsym(RTLD_NEXT, #function))
#define WRAP(type, bad, name, parameters, arguments)                                                                   \
	type name parameters                                                                                           \
	{                                                                                                              \
		static type(*next) parameters;                                                                         \
		if (next == NULL)                                                                                      \
			next = (type(*) parameters)dlsym(RTLD_NEXT, #name);                                            \
		return fails(#name) ? (bad) : next arguments;                                                          \
	}

int epoll_create1(int flags)
{
	int made;

	if (page != NULL)
		is_counting = 1;
	made = fails("epoll_create1") ? -1 : NEXT(epoll_create1)(flags);
	return made;
}

WRAP(int, -1, epoll_ctl, (int a, int b, int c, struct epoll_event *d), (a, b, c, d))
WRAP(int, -1, epoll_wait, (int a, struct epoll_event *b, int c, int d), (a, b, c, d))
WRAP(int, -1, pipe2, (int a[2], int b), (a, b))
WRAP(int, -1, pipe, (int a[2]), (a))
WRAP(int, -1, eventfd, (unsigned a, int b), (a, b))
WRAP(int, -1, socket, (int a, int b, int c), (a, b, c))
WRAP(int, -1, socketpair, (int a, int b, int c, int d[2]), (a, b, c, d))
WRAP(int, -1, bind, (int a, const struct sockaddr *b, socklen_t c), (a, b, c))
WRAP(int, -1, listen, (int a, int b), (a, b))
WRAP(int, -1, connect, (int a, const struct sockaddr *b, socklen_t c), (a, b, c))
WRAP(int, -1, getsockname, (int a, struct sockaddr *b, socklen_t *c), (a, b, c))
WRAP(int, -1, getsockopt, (int a, int b, int c, void *d, socklen_t *e), (a, b, c, d, e))
WRAP(int, -1, setsockopt, (int a, int b, int c, const void *d, socklen_t e), (a, b, c, d, e))
WRAP(ssize_t, -1, send, (int a, const void *b, size_t c, int d), (a, b, c, d))
WRAP(ssize_t, -1, sendto, (int a, const void *b, size_t c, int d, const struct sockaddr *e, socklen_t f), (a, b, c, d, e, f))
WRAP(ssize_t, -1, recv, (int a, void *b, size_t c, int d), (a, b, c, d))
WRAP(ssize_t, -1, recvmsg, (int a, struct msghdr *b, int c), (a, b, c))
WRAP(int, -1, shutdown, (int a, int b), (a, b))
WRAP(ssize_t, -1, read, (int a, void *b, size_t c), (a, b, c))
WRAP(ssize_t, -1, pread64, (int a, void *b, size_t c, off64_t d), (a, b, c, d))
WRAP(ssize_t, -1, pwrite64, (int a, const void *b, size_t c, off64_t d), (a, b, c, d))
WRAP(int, -1, fstat64, (int a, struct stat64 *b), (a, b))
WRAP(int, -1, stat64, (const char *a, struct stat64 *b), (a, b))
WRAP(int, -1, lstat64, (const char *a, struct stat64 *b), (a, b))
WRAP(int, -1, fstatat64, (int a, const char *b, struct stat64 *c, int d), (a, b, c, d))
WRAP(DIR *, NULL, opendir, (const char *a), (a))
WRAP(int, -1, rename, (const char *a, const char *b), (a, b))
WRAP(int, -1, renameat, (int a, const char *b, int c, const char *d), (a, b, c, d))
WRAP(int, -1, unlink, (const char *a), (a))
WRAP(int, -1, unlinkat, (int a, const char *b, int c), (a, b, c))
WRAP(int, -1, mkdir, (const char *a, mode_t b), (a, b))
WRAP(int, -1, chmod, (const char *a, mode_t b), (a, b))
WRAP(int, -1, utimensat, (int a, const char *b, const struct timespec c[2], int d), (a, b, c, d))
WRAP(int, -1, kill, (pid_t a, int b), (a, b))
WRAP(pid_t, -1, waitpid, (pid_t a, int *b, int c), (a, b, c))
WRAP(pid_t, -1, fork, (void), ())

/* glibc declares that poll() only writes what it is given. */
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
/* A lost line of the log is what tests wait for. */
int poll(struct pollfd *watched, nfds_t count, int timeout)
{
	int is_log = count == 1 && watched->fd == 2;

	return !is_log && fails("poll") ? -1 : NEXT(poll)(watched, count, timeout);
}

/* Likewise; and a single byte is the interpreter's own, from a signal to its loop. */
ssize_t write(int fd, const void *data, size_t size)
{
	return size > 1 && fd != 2 && fails("write") ? -1 : NEXT(write)(fd, data, size);
}

/* Closes before it fails, as Linux does. */
int close(int fd)
{
	int number, done = NEXT(close)(fd);

	number = errno;
	if (fails("close"))
		return -1;
	errno = number;
	return done;
}

int posix_spawn(pid_t *restrict pid, const char *restrict path, const posix_spawn_file_actions_t *actions,
		const posix_spawnattr_t *restrict attributes, char *const words[restrict], char *const environ[restrict])
{
	return fails("posix_spawn") ? errno : NEXT(posix_spawn)(pid, path, actions, attributes, words, environ);
}

static int open_any(int folder, const char *path, int flags, mode_t mode)
{
	return (int)syscall(SYS_openat, folder, path, flags, mode);
}

#define OPEN(name, folder, parameters, last)                                                                           \
	int name parameters                                                                                            \
	{                                                                                                              \
		va_list rest;                                                                                          \
		mode_t mode = 0;                                                                                       \
		va_start(rest, last);                                                                                  \
		if (flags & (O_CREAT | O_TMPFILE))                                                                     \
			mode = va_arg(rest, mode_t);                                                                   \
		va_end(rest);                                                                                          \
		return fails("open") ? -1 : open_any(folder, path, flags, mode);                                       \
	}
OPEN(open, AT_FDCWD, (const char *path, int flags, ...), flags)
OPEN(open64, AT_FDCWD, (const char *path, int flags, ...), flags)
OPEN(openat, folder, (int folder, const char *path, int flags, ...), flags)
OPEN(openat64, folder, (int folder, const char *path, int flags, ...), flags)

long syscall(long number, ...)
{
	static long (*next)(long, ...);
	long a[6];
	va_list rest;

	if (next == NULL)
		next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	va_start(rest, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(rest, long);
	va_end(rest);
	if (number == SYS_pidfd_open && fails("pidfd_open"))
		return -1;
	if (number == SYS_pidfd_send_signal && fails("pidfd_send_signal"))
		return -1;
	return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
