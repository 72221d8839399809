//! What every broker must do for us: one suite, run against the embedded broker and Apache Kafka.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod apache;
mod embedded;
mod suite;

macro_rules! contract {
    ($($rule:ident),+ $(,)?) => {
        mod on_the_embedded_broker {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                let broker = crate::embedded::Broker::start();
                crate::suite::$rule(&broker.config()).await;
            })+
        }

        mod on_apache_kafka {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                crate::suite::$rule(&crate::apache::shared()).await;
            })+
        }
    };
}

contract!(
    keeps_order_per_key,
    delivers_again_what_was_not_committed,
    takes_a_large_batch,
    refuses_a_forged_signature,
    refuses_a_foreign_key,
    refuses_what_was_tampered_with,
    sees_a_topic_made_later,
    gives_everything_to_each_downstream,
    shares_a_group_without_doubling,
    keeps_checkpoints,
    makes_topics_once,
    counts_the_lag,
    refuses_what_is_too_large,
    refuses_a_topic_that_does_not_exist,
);
