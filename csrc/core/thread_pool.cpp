#include "thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

namespace di {
namespace {

// A plan's steps follow one another within microseconds, and many take no more than a sleeping thread takes to wake: so whoever has
// nothing to do looks for this long before it sleeps.
constexpr std::chrono::microseconds kPatience{50};

template <class Ready> void look_for(Ready ready) {
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (!ready() && std::chrono::steady_clock::now() < until)
    for (int i = 0; i < 8 && !ready(); ++i) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#else
      std::this_thread::yield();
#endif
    }
}

struct Job {
  const std::function<void(int64_t, int64_t)>& body;
  int64_t count, grain;
  std::atomic<int64_t> next{0};
  std::atomic<int> helpers{0};   // threads inside; changed under the pool's mutex
  std::exception_ptr error;      // guarded by it

  Job(const std::function<void(int64_t, int64_t)>& body, int64_t count, int64_t grain) : body(body), count(count), grain(grain) {}

  // Ranges until none is left; an exception ends the job for all.
  std::exception_ptr work() {
    try {
      for (int64_t begin; (begin = next.fetch_add(grain)) < count;) body(begin, std::min(begin + grain, count));
    } catch (...) {
      next = count;
      return std::current_exception();
    }
    return nullptr;
  }
};

class Pool {
 public:
  void run(Job& job, int helpers) {
    {
      const std::lock_guard lock(mutex_);
      for (; workers_ < helpers; ++workers_) std::thread([this] { serve(); }).detach();
      for (int i = 0; i < helpers; ++i) waiting_.push_back(&job);
      waiting_count_ = waiting_.size();
    }
    wake_.notify_all();
    std::exception_ptr error = job.work();
    std::unique_lock lock(mutex_);
    waiting_.erase(std::remove(waiting_.begin(), waiting_.end(), &job), waiting_.end());   // whoever did not come is not needed
    waiting_count_ = waiting_.size();
    lock.unlock();
    look_for([&] { return job.helpers == 0; });
    lock.lock();
    done_.wait(lock, [&] { return job.helpers == 0; });
    if (!error) error = job.error;
    if (error) std::rethrow_exception(error);
  }

 private:
  void serve() {
    std::unique_lock lock(mutex_);
    for (;;) {
      lock.unlock();
      look_for([&] { return waiting_count_ > 0; });
      lock.lock();
      wake_.wait(lock, [&] { return !waiting_.empty(); });
      Job& job = *waiting_.front();
      waiting_.pop_front();
      waiting_count_ = waiting_.size();
      ++job.helpers;
      lock.unlock();
      const std::exception_ptr error = job.work();
      lock.lock();
      if (error && !job.error) job.error = error;
      if (--job.helpers == 0) done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::deque<Job*> waiting_;
  std::atomic<size_t> waiting_count_{0};   // its size, to be seen without the mutex
  int workers_ = 0;
};

// Never destroyed: workers are detached and may outlive static destructors. After a fork the child has none of the workers, so
// it starts over; the parent's pool is left as it is.
Pool* pool = nullptr;
std::once_flag made;

Pool& the_pool() {
  std::call_once(made, [] {
    pool = new Pool;
    pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
  });
  return *pool;
}

}  // namespace

void parallel_for(int64_t count, int64_t grain, int threads, const std::function<void(int64_t, int64_t)>& body) {
  if (count <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  const int64_t pieces = (count + grain - 1) / grain;
  const int helpers = int(std::min<int64_t>(threads, pieces)) - 1;
  if (helpers <= 0) return body(0, count);
  Job job(body, count, grain);
  the_pool().run(job, helpers);
}

}  // namespace di
