/* How the postmaster waits for clients and accepts them: only while the gate is open, and with orders carried out
 * between two waits. */
#include "library.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <sys/select.h>

static int epoll = -1;	  /* Postgres's, in which a listener is */
static bool is_registered; /* whether the kernel watches the listeners there */
static bool has_waited;
static int told_peers;

/* Have the kernel watch the listeners while the gate is open. If that fails it is tried again before the next wait. */
static void watch(void)
{
	bool is_wished = is_open;

	if (is_registered == is_wished)
		return;
	for EACH (one)
		if (one->is_watched &&
		    NEXT(epoll_ctl)(epoll, is_wished ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, one->fd, &one->event) != 0 &&
		    errno != EEXIST && errno != ENOENT)
			return;
	is_registered = is_wished;
}

/* Called before each wait for the listeners in `reading` or, where that is NULL, in the epoll. Whether every record has
 * been sent, so that the wait may last as long as Postgres wants it to. */
static bool begin_to_wait(const fd_set *reading, int most)
{
	int waited_for = 0;
	uint32_t left_out[MOST / 32] = {0, 0};

	if (has_waited)
		return catch_up();
	for EACH (one)
		if (reading == NULL ? one->is_watched : one->fd >= 0 && one->fd < most && FD_ISSET(one->fd, reading))
			waited_for++;
		else if (one < listeners + inherited) {
			left_out[(one - listeners) / 32] |= 1U << ((one - listeners) % 32);
			if (one->after == -1 && one->at.any.sa_family == AF_UNIX)
				one->after = ANY;
		}
	has_waited = tell(WAITS, waited_for, (int)left_out[0], (int)left_out[1], -1);
	return catch_up() && (has_waited || channel < 0);
}

/* Carry out the supervisor's orders, between two waits. */
static void obey(void)
{
	int32_t order[4];
	ssize_t got;

	while ((got = recv(channel, order, sizeof order, MSG_DONTWAIT)) == sizeof order) {
		/* The supervisor cannot know of an alarm that is still to be sent. */
		if (order[0] == OPEN && !is_open && order[2] == alarms && !is_alarm_due()) {
			told_peers = 0;
			is_open = true;
			watch();
			if (order[2] != alarms || (epoll >= 0 && !is_registered))
				is_open = false; /* a signal came in between, or the kernel has no memory */
		} else if (order[0] == SHUT)
			is_open = false;
		answer(order[1]);
	}
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	is_open = false;
	if (epoll >= 0)
		(void)NEXT(epoll_ctl)(epoll, EPOLL_CTL_DEL, channel, NULL);
	(void)close(channel);
	channel = -1;
}

/* While the gate is shut, take the listeners out of a set: how many were in it. */
static int drop(int most, fd_set *set)
{
	int dropped = 0;

	for EACH (one)
		if (!is_open && one->fd >= 0 && one->fd < most && FD_ISSET(one->fd, set)) {
			FD_CLR(one->fd, set);
			dropped++;
		}
	return dropped;
}

EXPORT int select(int most, fd_set *reading, fd_set *writing, fd_set *excepted, struct timeval *timeout)
{
	struct timeval soon = {.tv_usec = AGAIN * 1000};
	bool is_for_clients = false;
	int found;

	for EACH (one)
		if (reading != NULL && one->fd >= 0 && one->fd < most && FD_ISSET(one->fd, reading))
			is_for_clients = is_postmaster();
	if (!is_for_clients)
		return NEXT(select)(most, reading, writing, excepted, timeout);
	if (!begin_to_wait(reading, most))
		timeout = &soon;
	(void)drop(most, reading);
	if (channel >= 0)
		FD_SET(channel, reading);
	found = NEXT(select)(most > channel ? most : channel + 1, reading, writing, excepted, timeout);
	if (found <= 0)
		return found;
	if (channel >= 0 && FD_ISSET(channel, reading)) {
		FD_CLR(channel, reading);
		found--;
		obey();
	}
	found -= drop(most, reading);
	errno = EINTR;
	return found > 0 ? found : -1;
}

EXPORT int epoll_ctl(int set, int what, int fd, struct epoll_event *event)
{
	struct listener *one = find(fd);
	struct epoll_event orders = {.events = EPOLLIN, .data.ptr = &channel};

	if (one == NULL)
		return NEXT(epoll_ctl)(set, what, fd, event);
	(void)NEXT(epoll_ctl)(set, EPOLL_CTL_DEL, fd, event);
	if (channel >= 0 && NEXT(epoll_ctl)(set, EPOLL_CTL_ADD, channel, &orders) != 0 && errno != EEXIST)
		return -1;
	epoll = set;
	is_registered = false;
	one->is_watched = what != EPOLL_CTL_DEL;
	one->event = *event;
	return 0;
}

EXPORT int epoll_wait(int set, struct epoll_event *events, int most, int timeout)
{
	int found, kept = 0;

	if (set != epoll || !is_postmaster())
		return NEXT(epoll_wait)(set, events, most, timeout);
	if (!begin_to_wait(NULL, 0))
		timeout = AGAIN;
	watch();
	found = NEXT(epoll_wait)(set, events, most, timeout);
	for (int i = 0; i < found; i++)
		if (events[i].data.ptr == &channel)
			obey();
	for (int i = 0; i < found; i++) {
		bool is_kept = events[i].data.ptr != &channel;

		for EACH (one)
			is_kept &= is_open || !one->is_watched || one->event.data.u64 != events[i].data.u64;
		if (is_kept)
			events[kept++] = events[i];
	}
	if (found <= 0 || kept > 0)
		return found <= 0 ? found : kept;
	errno = EINTR;
	return -1;
}

EXPORT int accept4(int fd, struct sockaddr *restrict address, socklen_t *restrict length, int flags)
{
	struct listener *one = find(fd);
	struct ucred peer;
	socklen_t size = sizeof peer;
	int taken = -1, none = 0;

	errno = EAGAIN;
	if (one != NULL && !is_open)
		return -1;
	for EACH (earlier)
		if (one != NULL && taken < 0 &&
		    (earlier->after == fd || (earlier->after == ANY && is_ended(earlier->given))))
			taken = NEXT(accept4)(earlier->given, address, length, flags);
	if (taken < 0)
		taken = NEXT(accept4)(fd, address, length, flags);
	if (taken < 0 || one == NULL)
		return taken;
	if (one->at.any.sa_family == AF_UNIX) {
		if (told_peers < TOLD_PEERS && getsockopt(taken, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0)
			told_peers += tell(PEER, (int)peer.pid, (int)peer.uid, 0, -1);
		return taken;
	}
	/* Connections made while the supervisor was about to exit do not receive yet: `plug` in gate/listeners.py. */
	(void)setsockopt(taken, IPPROTO_IP, IP_MINTTL, &none, sizeof none);
	if (one->at.any.sa_family == AF_INET6)
		(void)setsockopt(taken, IPPROTO_IPV6, IPV6_MINHOPCOUNT, &none, sizeof none);
	return taken;
}

EXPORT int accept(int fd, struct sockaddr *restrict address, socklen_t *restrict length)
{
	return accept4(fd, address, length, 0);
}
