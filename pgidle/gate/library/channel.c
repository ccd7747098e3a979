/* Sends records to the supervisor. What the channel has no room for is kept, and sent before the next wait. */
#include "library.h"

static int unanswered; /* order, or 0 */

/* Send a record, with a descriptor unless that is negative: whether it could be sent. Never waits, and may be called
 * by a signal handler. */
bool tell(enum kind kind, int a, int b, int c, int fd)
{
	int32_t record[4] = {kind, a, b, c};
	struct iovec content = {record, sizeof record};
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof fd)];
	} rights = {{.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
	struct msghdr message = {.msg_iov = &content, .msg_iovlen = 1};
	int before = errno;
	bool is_told;

	if (fd >= 0) {
		memcpy(CMSG_DATA(&rights.header), &fd, sizeof fd);
		message.msg_control = &rights;
		message.msg_controllen = sizeof rights;
	}
	is_told = sendmsg(channel, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof record;
	errno = before;
	return is_told;
}

/* Send what is due, alarms before answers: whether nothing is left. */
bool catch_up(void)
{
	bool is_done = true;

	if (channel < 0)
		return true;
	for EACH (one)
		if (one->is_untold) {
			one->is_untold = !tell(UNIX, 0, 0, 0, one->fd);
			is_done &= !one->is_untold;
		}
	if (!tell_alarms())
		return false;
	if (unanswered != 0 && tell(STATE, unanswered, is_open, alarms, -1))
		unanswered = 0;
	return is_done && unanswered == 0;
}

void answer(int order)
{
	unanswered = order;
	(void)catch_up();
}
