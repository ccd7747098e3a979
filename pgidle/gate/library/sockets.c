/* Postgres's sockets and their files: which of them are the supervisor's, and what Postgres may do to those. */
#include "library.h"

#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

/* Whether the supervisor has ended a listener: nobody can connect to it any more, and it stands in for no other. */
bool is_ended(int fd)
{
	struct pollfd one = {.fd = fd, .events = POLLRDHUP};

	return poll(&one, 1, 0) == 1 && (one.revents & POLLRDHUP) != 0;
}

/* The last component of a path, and in `folder` the directory that holds it; NULL if there is no such directory. */
static const char *look_up(const char *path, struct stat *folder)
{
	const char *slash = strrchr(path, '/');
	char above[sizeof(struct sockaddr_un)] = ".";

	if (slash == NULL)
		return stat(above, folder) == 0 ? path : NULL;
	if ((size_t)(slash - path) + 1 >= sizeof above)
		return NULL;
	memcpy(above, path, (size_t)(slash - path) + 1);
	return stat(above, folder) == 0 ? slash + 1 : NULL;
}

/* Whether a path names the same file as a listener's path with `added` appended, however the two are written. */
static bool names(const char *path, const struct listener *one, const char *added)
{
	struct stat folders[2];
	char held[sizeof one->at + sizeof ".lock"] = "";
	const char *name, *ours, *end = strrchr(path, '/');

	if (one->at.any.sa_family != AF_UNIX || one->at.un.sun_path[0] == '\0')
		return false;
	memcpy(held, one->at.un.sun_path, one->length - offsetof(struct sockaddr_un, sun_path));
	ours = strrchr(strcat(held, added), '/');
	if (strcmp(ours == NULL ? held : ours + 1, end == NULL ? path : end + 1) != 0)
		return false; /* the common case, as for every temporary file */
	name = look_up(path, &folders[0]);
	ours = look_up(held, &folders[1]);
	return name != NULL && ours != NULL && folders[0].st_dev == folders[1].st_dev &&
	       folders[0].st_ino == folders[1].st_ino;
}

static bool is_at(const struct listener *one, const struct sockaddr *address, socklen_t length)
{
	char path[sizeof one->at + 1] = "";

	if (length == one->length && memcmp(&one->at, address, length) == 0)
		return true; /* an abstract name is compared by its bytes, too */
	if (address->sa_family != AF_UNIX || length > sizeof one->at)
		return false;
	memcpy(path, ((const struct sockaddr_un *)(const void *)address)->sun_path,
	       length - offsetof(struct sockaddr_un, sun_path));
	return path[0] != '\0' && names(path, one, "");
}

EXPORT int bind(int fd, const struct sockaddr *address, socklen_t length)
{
	struct listener *former = find(fd);
	int type = 0, taken = -1;
	socklen_t size = sizeof type;

	if (former != NULL) /* it was closed since, or it could not be bound again */
		former->fd = -1, former->is_watched = false;
	(void)getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size);
	for EACH (one) {
		if (one->given < 0 || type != SOCK_STREAM || !is_postmaster() || !is_at(one, address, length))
			continue;
		if (taken >= 0 || (one->at.any.sa_family == AF_UNIX && is_ended(one->given))) {
			one->after = fd;
			continue;
		}
		if ((taken = dup3(one->given, fd, O_CLOEXEC)) < 0)
			return -1;
		(void)close(one->given);
		one->given = -1;
		one->fd = fd;
	}
	return taken >= 0 ? 0 : NEXT(bind)(fd, address, length);
}

EXPORT int listen(int fd, int backlog)
{
	struct listener *one = find(fd), made = {.given = -1, .fd = fd, .after = -1, .length = sizeof made.at};
	int is_unix = 0;

	if (one != NULL) /* It listens already, by the supervisor's call and so as Postgres's user: SO_PEERCRED is right. */
		return 0;
	if (is_postmaster() && count < MOST && getsockname(fd, &made.at.any, &made.length) == 0)
		is_unix = made.at.any.sa_family == AF_UNIX && memmem(&made.at, made.length, ".s.PGSQL.", 9) != NULL;
	if (NEXT(listen)(fd, is_unix ? WIDE : backlog) != 0)
		return -1;
	if (is_unix) {
		made.is_untold = true;
		listeners[count++] = made;
		(void)catch_up();
	}
	return 0;
}

/* Whether the supervisor is dying: its first thread has ended, which signals us, while its other threads may still hold
 * our channel open. If those are about to end as well, we already have another parent (find_new_reaper in
 * kernel/exit.c); else our parent is a zombie by the state that proc_pid_stat(5) has behind the name in brackets. */
static bool is_orphan(void)
{
	char path[sizeof "/proc//stat" + 10], line[512] = "", *state;
	int fd;

	if (getppid() != supervisor)
		return true;
	(void)snprintf(path, sizeof path, "/proc/%d/stat", (int)getppid());
	if ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
		return false;
	state = read(fd, line, sizeof line - 1) > 0 ? strrchr(line, ')') : NULL;
	(void)close(fd);
	return state != NULL && strncmp(state, ") Z", 3) == 0;
}

EXPORT int unlink(const char *path)
{
	for EACH (one) {
		if (!is_postmaster())
			continue;
		if (names(path, one, "") && (one->given < 0 || !is_ended(one->given)))
			return 0;
		if (one->fd >= 0 && !one->is_lock_left && names(path, one, ".lock") && !is_orphan() &&
		    tell(LOCK, 0, 0, 0, -1)) {
			one->is_lock_left = true;
			return 0;
		}
	}
	return NEXT(unlink)(path);
}

/* Named in the assembler only, because the C library may define an inline function of that name. */
EXPORT int open_file(const char *path, int flags, ...) __asm__("open");

int open_file(const char *path, int flags, ...)
{
	size_t length = strlen(path), end = strlen(".lock");
	bool is_lock = is_postmaster() && (flags & (O_ACCMODE | O_CREAT)) == O_RDONLY && length > end &&
		       strcmp(path + length - end, ".lock") == 0 && strstr(path, ".s.PGSQL.") != NULL;
	struct stat file;
	mode_t mode = 0;
	va_list more;
	int fd;

	if ((flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE) {
		va_start(more, flags);
		mode = va_arg(more, mode_t);
		va_end(more);
	}
	fd = NEXT(open)(path, is_lock ? flags | O_NONBLOCK | O_NOCTTY : flags, mode);
	if (fd < 0 || !is_lock || (fstat(fd, &file) == 0 && S_ISREG(file.st_mode)))
		return fd;
	(void)close(fd);
	errno = EPERM;
	return -1;
}

/* Postgres gives up a Unix socket whose permissions it cannot set. Where another user made the file, its permissions
 * are that user's decision: a service manager's SocketMode= and SocketGroup=. */
static int leave_to_owner(const char *path, int result)
{
	int why = errno;
	struct stat file;

	if (result == 0 || why != EPERM || !is_postmaster())
		return result;
	for EACH (one)
		if (names(path, one, "") && lstat(path, &file) == 0 && file.st_uid != geteuid())
			return 0;
	errno = why;
	return result;
}

EXPORT int chmod(const char *path, mode_t mode)
{
	return leave_to_owner(path, NEXT(chmod)(path, mode));
}

EXPORT int chown(const char *path, uid_t user, gid_t group)
{
	return leave_to_owner(path, NEXT(chown)(path, user, group));
}
